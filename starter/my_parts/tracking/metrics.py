"""Definitions of the metrics that the parts of this plug-in log."""

BATCH: dict[str, str] = {
    "logratios/margins_std": "standard deviation of logratios/margins over the pairs of a batch (nats)",
    "weights/norm": "2-norm of the trained weights",
}
