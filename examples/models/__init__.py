"""One short file for each common kind of model: train it, export it, serve it, call it. The data are made up."""
