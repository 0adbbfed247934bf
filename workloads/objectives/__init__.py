"""What one step of training minimises: one file an objective, one face for all (`objective`).

An objective maps (networks, batch, random draws) to losses. It says which networks it trains beside
the student (`auxiliary`: each gets an engine of its own, is sharded and checkpointed), what it needs
of each prompt besides its conditioning (`columns`: made once, kept in the shards) and what a step
tells (`losses`). It hands out its updates one after the other, so a step may have as many, of as many
networks, as it likes; what runs a training, keeps it or plans its memory knows none of that.
`catalogue` makes the one that `train.objective` names; `settings` says which published names are
settings of another.

- `pgsb`: variational score distillation, with a fake score (PG-SB, SwiftBrush, DMD's gradient).
- `clip_loss`: a CLIP loss around another objective (SwiftBrush v2).
- `boot`: along the teacher's trajectory (BOOT), with no auxiliary network at all.

What would be new fits so:

- A GAN objective has an `Auxiliary` "discriminator". Real pictures, as latents, are a column: its
  maker looks up the picture that belongs to a prompt. `updates` yields the student's adversarial
  loss, then the discriminator's, on the column and on the student's pictures without gradient.
- A paired regression has a column of the teacher's pictures, whose maker holds the teacher's
  pipeline and draws each prompt from noise that is a function of it; a second column is that noise.
  `updates` yields one loss of the student, read from that noise in place of `draws`.
- Another trajectory objective is `boot` with another target.
"""
