"""The variational autoencoder: a density of images, embeddings of them, and pretraining for the other learners."""
