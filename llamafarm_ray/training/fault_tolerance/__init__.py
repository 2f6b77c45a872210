"""The driver's channel, signs of life, preemption, retries, resumed and forked runs."""
