"""What a lead asks of a campaign: how far people agree, where they are biased, how fast they are.

Pure functions of the judgments that the caller chose (see `Judged`); numpy and scipy only, no database.
"""
