"""BGP speaker: announce exactly the routes that are wanted. Knows neither the appliance nor health."""
