//! The decoder returns the same messages for any bytes, whether they arrive whole or in pieces.
//! `cargo xtask fuzz` runs this test for a minute or more.

use std::time::{Duration, Instant};

use batchwright_server::kcp::{Decoder, encode};

/// Number of inputs when `FUZZ_SECONDS` is not set.
const INPUTS: u64 = 20_000;

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn bytes(&mut self) -> Vec<u8> {
        const PIECES: [&[u8]; 14] = [
            b" ",
            b"\n",
            b"\"",
            b"\\",
            b"\\\"",
            b"\r\n",
            b"\0",
            b"\xff",
            b"\xc3",
            b"\xa4",
            b"SET",
            b"a",
            b"1 PING\n",
            b"\"2099-01-01 00:00:00\"",
        ];
        let mut bytes = Vec::new();
        for _ in 0..self.below(200) {
            match self.below(4) {
                0 => bytes.push(u8::try_from(self.below(256)).unwrap()),
                _ => bytes.extend_from_slice(PIECES[usize::try_from(self.below(14)).unwrap()]),
            }
        }
        bytes
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "FUZZ_SECONDS sets the duration in seconds")]
fn any_bytes_are_answered_the_same_in_any_pieces() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let seed = std::env::var("SIM_SEED").map_or(1, |seed| seed.parse().unwrap());
    let (mut rng, began, mut inputs) = (Rng(seed), Instant::now(), 0_u64);
    loop {
        inputs += 1;
        let bytes = rng.bytes();
        let (mut whole, mut decoder) = (&bytes[..], Decoder::default());
        let at_once: Vec<_> = std::iter::from_fn(|| decoder.next(&mut whole)).collect();
        let is_inside = decoder.is_inside();
        let mut decoder = Decoder::default();
        let (mut rest, mut in_pieces) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let cut = usize::try_from(1 + rng.below(9)).unwrap().min(rest.len());
            let (mut piece, later) = rest.split_at(cut);
            in_pieces.extend(std::iter::from_fn(|| decoder.next(&mut piece)));
            rest = later;
        }
        assert_eq!(at_once, in_pieces, "{bytes:?}");
        assert_eq!(is_inside, decoder.is_inside(), "{bytes:?}");
        for message in at_once.into_iter().flatten() {
            let again = encode(&message);
            let read = Decoder::default().next(&mut again.as_bytes());
            assert_eq!(read, Some(Ok(message)), "{bytes:?}");
        }
        let is_over = match seconds {
            Some(seconds) => began.elapsed() >= Duration::from_secs(seconds),
            None => inputs >= INPUTS,
        };
        if is_over {
            println!("{inputs} inputs");
            return;
        }
    }
}
