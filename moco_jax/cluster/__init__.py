"""A run of several processes: how they meet, who is gone, when all stop."""
