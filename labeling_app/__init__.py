"""The page where people rank completions. Start it with `rlhf label`; what they say goes to a label store."""
