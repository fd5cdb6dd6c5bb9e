//! Values that nobody asked for: stepped over, and still held to the grammar, so that a broken record is found
//! wherever it is broken.

use super::cursor::{Cursor, Read};

/// Containers within containers, below the record itself: as deep as serde_json follows.
const DEPTH_MAX: usize = 126;

impl Cursor<'_> {
    /// Steps over a value of any kind, holding it to the grammar.
    #[inline]
    pub(crate) fn skip(&mut self) -> Read {
        self.space();
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                match self.plain_string() {
                    Some(_) => Ok(()),
                    None => self.skip_string(),
                }
            }
            Some(b'{' | b'[') => self.skip_containers(),
            _ => self.skip_scalar(),
        }
    }

    fn skip_string(&mut self) -> Read {
        loop {
            self.at = self.string_end();
            match self.peek() {
                None => return self.fail("a string is not closed"),
                Some(b'"') => break,
                Some(b'\\') => match self.bytes.get(self.at + 1) {
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
                    Some(b'u') => {
                        self.at += 2;
                        self.hex4()?;
                    }
                    _ => return self.fail("a backslash escapes what needs no escape"),
                },
                Some(_) => return self.fail("a control character stands in a string unescaped"),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn skip_scalar(&mut self) -> Read {
        match self.peek() {
            Some(b't') if self.take(b"true") => Ok(()),
            Some(b'f') if self.take(b"false") => Ok(()),
            Some(b'n') if self.take(b"null") => Ok(()),
            Some(b'-' | b'0'..=b'9') => {
                if self.plain_integer().is_none() {
                    self.number()?;
                }
                Ok(())
            }
            None => self.fail("the record ends where a value is expected"),
            Some(_) => self.fail("a value is expected"),
        }
    }

    /// Steps over an object or array with all that it holds, without recursion.
    fn skip_containers(&mut self) -> Read {
        // Bit n says whether the container at depth n is an object.
        let (mut kinds, mut depth) = (0u128, 0usize);
        loop {
            // Before a value.
            self.space();
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth == DEPTH_MAX {
                        return self.fail("the value is nested too deeply");
                    }
                    self.at += 1;
                    depth += 1;
                    kinds = kinds << 1 | u128::from(open == b'{');
                    self.space();
                    let close = if open == b'{' { b'}' } else { b']' };
                    if self.peek() != Some(close) {
                        if open == b'{' {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => {
                    self.at += 1;
                    if self.plain_string().is_none() {
                        self.skip_string()?;
                    }
                }
                _ => self.skip_scalar()?,
            }
            // After a value, or before the end of an empty container.
            loop {
                let object = kinds & 1 == 1;
                self.space();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if object {
                            self.space();
                            self.skip_key()?;
                        }
                        break;
                    }
                    Some(b'}') if object => {}
                    Some(b']') if !object => {}
                    None => return self.fail("the record ends within an object or array"),
                    Some(_) if object => return self.fail("',' or '}' is expected"),
                    Some(_) => return self.fail("',' or ']' is expected"),
                }
                self.at += 1;
                depth -= 1;
                kinds >>= 1;
                if depth == 0 {
                    return Ok(());
                }
            }
        }
    }

    fn skip_key(&mut self) -> Read {
        if !self.take(b"\"") {
            return self.fail("a field name in quotes is expected");
        }
        self.skip_string()?;
        self.space();
        if self.take(b":") { Ok(()) } else { self.fail("':' is expected after the field name") }
    }
}
