//! Metrics of generated videos.
