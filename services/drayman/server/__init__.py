"""The services: auth, dispatch, and the platform they stand on."""
