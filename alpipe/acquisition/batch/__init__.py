"""What is done to scores and candidates before and while a batch is chosen: noise, near-duplicates, groups."""
