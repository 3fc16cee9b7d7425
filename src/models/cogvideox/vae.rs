//! The autoencoder.
