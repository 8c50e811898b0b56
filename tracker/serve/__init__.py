"""`tracker serve`: a local page to track one's own videos in the browser."""
