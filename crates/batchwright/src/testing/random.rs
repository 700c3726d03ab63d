//! Random numbers determined by a seed.

/// A generator of random numbers; equal seeds give equal sequences.
#[derive(Debug, Clone)]
pub struct SimRng(pub u64);

impl SimRng {
    /// Returns a number less than `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Returns a number from 0 to 1, excluding 1.
    pub fn unit(&mut self) -> f64 {
        self.below(1 << 30) as f64 / (1u64 << 30) as f64
    }
}
