"""Where frames and boxes come from."""
