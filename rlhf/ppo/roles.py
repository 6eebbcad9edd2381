"""Which adapter on the shared base plays which part."""

POLICY = "policy"  # what PPO trains: a copy of `sft` at first
REFERENCE = "sft"  # what KL is measured against: frozen
REWARD = "reward"  # scores responses
VALUE = "value"  # the critic's head, and its adapter where it has one of its own
