"""The configuration files of the simulated banks that several tests play on."""

SMALL = """
[time]
start = 2025-03-01
end = 2025-04-30

[source]
kind = "simulator"
start = 2025-03-01
customers = 40
merchants = 30
"""


def bank(customers: int, merchants: int, train_days: int, max_rounds: int, gate: str) -> str:
    """A bank that hears of fraud within a day, so that a month is enough to train on."""
    return f"""
[time]
start = 2025-03-01
end = 2025-04-30

[source]
kind = "simulator"
start = 2025-03-01
customers = {customers}
merchants = {merchants}
seed = 3
label_median_hours = 14.0

[verdicts]
maturity_days = 2

[model]
holdout_days = 5
train_days = {train_days}
warm_up_days = 0   # a few weeks are all that there is

[recipe]
max_rounds = {max_rounds}
legitimate_share = 1.0         # the defaults are for a bank of ten times the payments
min_sum_hessian_in_leaf = 1.0
lambda_l2 = 5.0
feature_fraction = 0.7
num_threads = 1

[gate]
allow_dirty = true
{gate}
"""


# The bank of test_model.py. Its first version passes the gate, and the version of a day later does not.
BANK = bank(customers=1000, merchants=500, train_days=30, max_rounds=60, gate="min_positives = 15")
# So small a bank proves no gain: its gate takes a version that is about as good, where what the gate weighs
# is not the question.
TINY_GATE = "min_positives = 3\nmin_gain = -1.0\nmax_money_loss_share = 1.0\nmax_calibration_error = 100.0"
TINY_BANK = bank(customers=300, merchants=150, train_days=14, max_rounds=30, gate=TINY_GATE)
