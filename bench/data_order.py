"""The order in which our trainer visits rows: worker/data/data_order.h in Python, so that a gate's peer sees the same batches."""

MASK = (1 << 64) - 1


def mix(x):
    """SplitMix64's finalizer."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def order(rows, seed, epoch):
    """The rows [0, rows) in the order of the epoch: a Feistel network, walked along its cycle until it falls below `rows`."""
    half = 4
    while half < 31 and 1 << (2 * half) < rows:
        half += 1
    state, keys = mix(mix(seed + 0x9E3779B97F4A7C15 & MASK) + epoch & MASK), []
    for _ in range(6):
        state = state + 0x9E3779B97F4A7C15 & MASK
        keys.append(mix(state))
    low = (1 << half) - 1

    def at(value):
        while True:
            left, right = value >> half, value & low
            for key in keys:
                left, right = right, left ^ (mix(right + key & MASK) & low)
            value = left << half | right
            if value < rows:
                return value

    return [at(position) for position in range(rows)]
