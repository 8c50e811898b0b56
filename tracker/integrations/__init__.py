"""The tracker behind the interfaces of other projects."""
