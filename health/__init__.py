"""Health monitors: probe members, damp the results, report verdicts. Knows neither the appliance nor BGP."""
