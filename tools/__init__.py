"""Tools that stay behind when a function is deployed: the image, planning, verification. Each is independent."""
