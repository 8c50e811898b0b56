"""The networks: SiamFC and its heads, their weights, the fused form, export."""
