"""What the command line offers, by what it is for: training, scoring, and applying what was
trained.
"""
