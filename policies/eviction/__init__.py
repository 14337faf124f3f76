"""Which cached unit leaves first."""
