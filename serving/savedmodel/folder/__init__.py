"""The files around the graph: versions, manifest, card, assets, and how a model is fetched from a bucket."""
