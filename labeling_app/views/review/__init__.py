"""Review: what people disagree on, who they are, what they said, and what was done here."""
