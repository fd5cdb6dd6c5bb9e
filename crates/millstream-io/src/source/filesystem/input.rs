//! The bytes of a file from some offset on, unpacked where it is packed.
//!
//! Offsets count unpacked bytes. A packed file can only be entered at its beginning: coming to an offset
//! means to unpack everything before it.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use millstream_core::{Error, Result};

use super::identity::io_error;

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// What the ending of the name promises.
    pub(super) fn of_name(path: &Path) -> Self {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("gz" | "gzip") => Self::Gzip,
            Some("zst" | "zstd") => Self::Zstd,
            _ => Self::None,
        }
    }

    /// How the file at this path is packed.
    pub(super) fn at(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| io_error(path, "opened", e))?;
        Self::of_file(path, &mut file)
    }

    /// What the first bytes say; it counts for more than the name, which they must not contradict.
    fn of_file(path: &Path, file: &mut File) -> Result<Self> {
        let mut magic = Vec::with_capacity(4);
        file.by_ref().take(4).read_to_end(&mut magic).map_err(|e| io_error(path, "read", e))?;
        file.seek(SeekFrom::Start(0)).map_err(|e| io_error(path, "read", e))?;
        let named = Self::of_name(path);
        match magic.as_slice() {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd] => Ok(Self::Zstd),
            _ if named == Self::None => Ok(Self::None),
            _ => Err(Error::input(format!(
                "the file '{}' is named as a packed file, but does not begin like one: it is truncated or was \
                 renamed; write it again, or give it the ending of what it holds",
                path.display()
            ))),
        }
    }
}

/// A file that is read onwards.
pub(super) struct Input {
    path: PathBuf,
    packing: Packing,
    reader: Box<dyn Read + Send>,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Input({}, {:?})", self.path.display(), self.packing)
    }
}

impl Input {
    /// The file from this offset on.
    ///
    /// Within a plain file an offset has a line end before it; where it does not, this is another file than
    /// the one that was read up to here.
    pub(super) fn open(path: &Path, offset: u64) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| io_error(path, "opened", e))?;
        let packing = Packing::of_file(path, &mut file)?;
        let failed = |e| io_error(path, "read", e);
        let reader: Box<dyn Read + Send> = match packing {
            Packing::None => {
                if let Some(before) = offset.checked_sub(1) {
                    file.seek(SeekFrom::Start(before)).map_err(failed)?;
                    let mut end = [0];
                    let read = file.read(&mut end).map_err(failed)?;
                    if read == 0 || end != *b"\n" {
                        return Err(no_line_end(path, offset));
                    }
                }
                Box::new(file)
            }
            Packing::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file))),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::new(file).map_err(failed)?),
        };
        let mut input = Self { path: path.to_path_buf(), packing, reader };
        if packing != Packing::None {
            input.skip(offset)?;
        }
        Ok(input)
    }

    pub(super) fn packing(&self) -> Packing {
        self.packing
    }

    /// Appends up to `wanted` bytes; fewer only at the end of what there is.
    pub(super) fn read(&mut self, wanted: usize, into: &mut Vec<u8>) -> Result<usize> {
        let before = into.len();
        into.reserve_exact(wanted);
        let read = self.reader.by_ref().take(wanted as u64).read_to_end(into);
        match read {
            Ok(read) => Ok(read),
            Err(e) => {
                into.truncate(before);
                Err(self.broken(e))
            }
        }
    }

    /// Reads on without keeping anything.
    pub(super) fn skip(&mut self, bytes: u64) -> Result<()> {
        let skipped = std::io::copy(&mut self.reader.by_ref().take(bytes), &mut std::io::sink());
        let skipped = skipped.map_err(|e| self.broken(e))?;
        if skipped < bytes {
            return Err(Error::input(format!(
                "the file '{}' holds {skipped} unpacked bytes, but was read up to byte {bytes} before: it was \
                 replaced; put it back as it was, or start the query anew with another state directory",
                self.path.display()
            )));
        }
        Ok(())
    }

    fn broken(&self, error: std::io::Error) -> Error {
        let path = self.path.display();
        let what = match (self.packing, error.kind()) {
            (Packing::None, _) => return io_error(&self.path, "read", error),
            (_, std::io::ErrorKind::UnexpectedEof) => "ends in the middle (it is truncated, or still being written)",
            _ => "is corrupt",
        };
        let tool = if self.packing == Packing::Gzip { "gzip -t" } else { "zstd -t" };
        Error::input(format!(
            "the packed file '{path}' {what}: `{tool}` should say the same; write it again whole, or take it away"
        ))
        .caused_by(error)
    }
}

fn no_line_end(path: &Path, offset: u64) -> Error {
    Error::input(format!(
        "the file '{}' was read up to byte {offset} before, but no line ends there now: it was shrunk, rewritten or \
         appended to in the middle of a line; put it back as it was, or start the query anew with another state \
         directory",
        path.display()
    ))
}
