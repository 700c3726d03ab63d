//! Contents that are whole, or an error.

use std::io::{self, Read};

/// The bytes of a file up to its known end. An end before it is an error, and the first error remains: some connections end
/// after one as if the content were complete.
pub(super) struct Whole {
    inner: Box<dyn Read + Send>,
    /// Number of bytes that must still come; `None` if only the connection knows.
    left: Option<u64>,
    /// Finds out at the end whether the file is still the same.
    check: Option<Check>,
    failure: Option<(io::ErrorKind, String)>,
}

/// Returns an error when the file was changed while it was read.
pub(super) type Check = Box<dyn FnOnce() -> io::Result<()> + Send>;

impl Whole {
    pub(super) fn new(
        inner: Box<dyn Read + Send>,
        left: Option<u64>,
        check: Option<Check>,
    ) -> Self {
        Self { inner, left, check, failure: None }
    }

    fn next(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = match self.left {
            Some(left) => into.len().min(usize::try_from(left).unwrap_or(usize::MAX)),
            None => into.len(),
        };
        // What was appended since the file was opened belongs to another state of it.
        let count = if most == 0 { 0 } else { self.inner.read(&mut into[..most])? };
        if count > 0 {
            self.left = self.left.map(|left| left - count as u64);
            return Ok(count);
        }
        if let Some(left) = self.left.filter(|left| *left > 0) {
            let what = format!("the transfer ended {left} bytes too early");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        // A server may allow one connection: this one ends before the check has its own.
        self.inner = Box::new(io::empty());
        self.check.take().map_or(Ok(()), |check| check())?;
        Ok(0)
    }
}

impl Read for Whole {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if let Some((kind, message)) = &self.failure {
            return Err(io::Error::new(*kind, message.clone()));
        }
        self.next(into).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failure = Some((error.kind(), error.to_string()));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(left: Option<u64>, check: Option<Check>) -> Vec<io::Result<usize>> {
        let mut whole = Whole::new(Box::new(&b"four"[..]), left, check);
        (0..3).map(|_| whole.read(&mut [0; 8])).collect()
    }

    #[test]
    fn an_end_that_is_too_early_is_an_error_that_remains() {
        let results = read(Some(6), None);
        assert_eq!(*results[0].as_ref().unwrap(), 4);
        for result in &results[1..] {
            assert_eq!(
                result.as_ref().unwrap_err().to_string(),
                "the transfer ended 2 bytes too early"
            );
        }
    }

    #[test]
    fn bytes_after_the_known_end_are_not_read() {
        let results = read(Some(3), None);
        assert_eq!(results.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [3, 0, 0]);
    }

    #[test]
    fn a_file_that_was_changed_is_an_error_that_remains() {
        let check: Check = Box::new(|| Err(io::Error::other("changed")));
        let results = read(None, Some(check));
        assert_eq!(*results[0].as_ref().unwrap(), 4);
        assert!(results[1..].iter().all(|one| one.as_ref().unwrap_err().to_string() == "changed"));
    }
}
