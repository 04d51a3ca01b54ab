//! Pulling: from a reference to an image that is complete in the store.
