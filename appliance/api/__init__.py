"""Shows what is: status document, metrics, live page. Changes nothing."""
