"""By how much a thing must differ to be called better, or agree to be called the same: the three margins of the house.

They are here before the recordings that use them, and no claim has one of its own.

    better         supported where a / b is below 0.9: more than 10 % less;     contradicted above 1
    much better    supported where a / b is below 0.5: more than 50 % less;     contradicted above 0.9: not even better
    same           supported where a / b is between 0.9 and 1 / 0.9 (two one-sided tests);  contradicted outside

Between support and contradiction it is unresolved: a few per cent less is what many a paper's table calls better, and
neither that nor its contrary. The statistic of a claim is a positive number per seed of which less is better (an error,
a cost, a time); for one of which more is better a and b change places.
"""

MARGINS = {"better": (0.0, 0.9), "much better": (0.0, 0.5), "same": (0.9, 1 / 0.9)}  # where a / b has to lie
REFUTED = {"better": 1.0, "much better": 0.9, "same": 1 / 0.9}  # above which it is not as claimed
SLACK = 0.01  # what a rerun may move a ratio by and be called the same: a verdict has to survive it
CONFIDENCE = 0.95
SUPPORTED, CONTRADICTED, UNRESOLVED, OUT_OF_SCOPE = "supported", "contradicted", "unresolved", "out of scope here"
VERDICTS = (SUPPORTED, CONTRADICTED, UNRESOLVED, OUT_OF_SCOPE)  # the only list of them
