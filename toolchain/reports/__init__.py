"""Tables, plots and the HTML page that present results."""
