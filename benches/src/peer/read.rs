//! Lines of a file as typed rows that borrow from one buffer.

use std::io::{BufRead, BufReader, Read};

use serde::Deserialize;

use super::BUFFER_BYTES;
use crate::Result;

pub struct Lines<R> {
    input: BufReader<R>,
    line: Vec<u8>,
}

impl<R: Read> Lines<R> {
    pub fn new(input: R) -> Self {
        Self { input: BufReader::with_capacity(BUFFER_BYTES, input), line: Vec::new() }
    }

    /// The next row; `None` at the end.
    #[inline]
    pub fn next<'a, T: Deserialize<'a>>(&'a mut self) -> Result<Option<T>> {
        self.line.clear();
        if self.input.read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&self.line)?))
    }
}
