"""Second text-to-image world: small drawings by designers, with human captions, and two teachers of them.

`subjects` lists what is drawn, `pictures` reads the table and splits it, `captions` words the captions,
`latent_space` maps pictures to latents. `networks` and `losses` define the teachers, `train` trains one (a
seeded, resumable command), `autoencoder` adds the decoder, `pipeline` saves the stock pipeline, `sheet` shows
and measures what a teacher draws. The pictures are other people's and are not part of the project.
"""
