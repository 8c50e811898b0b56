"""How a target is followed: on the device, on the host, and as other implementations do it."""
