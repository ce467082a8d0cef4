"""Who somebody is and what they are a member of."""
