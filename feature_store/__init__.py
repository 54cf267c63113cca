"""Room 7: the shelf. Embeddings, activity and user state, point-in-time correct, in Feast."""

# Before Feast, which sets PROMETHEUS_MULTIPROCESS_DIR when imported: prometheus_client reads it
# once, and would then mix the metrics of all applications of a process in temporary files.
import prometheus_client as _prometheus_client  # noqa: F401
