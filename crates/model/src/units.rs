//! Durations and sizes as a manifest writes them: `"250ms"`, `"30s"`, `"5m"`, `"2h"`, `"180d"`; `"64MiB"`.
