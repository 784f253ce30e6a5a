"""What is promised: the contract's types, run status machine, events, errors and ids.

Pure: imports nothing of ours, does no input or output. These types are also the domain types of every other
room; there is no second set of models behind them.
"""
