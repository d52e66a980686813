def report(rows, seed, out):
    return 0
