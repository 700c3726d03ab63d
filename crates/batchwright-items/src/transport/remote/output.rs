//! Outputs in other places.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::item::{
    Ending, FileOutput, FilePosition, OpenPath, PathUse, stable_hash, stable_hash_after,
};
use batchwright::scope::StepScope;
use serde::{Deserialize, Serialize};

use super::RemoteFile;
use crate::transport::sink::ByteSink;
use crate::transport::source::ByteSource;

/// The folder, beside the job file, where outputs of other places grow.
const FOLDER: &str = ".outgoing";
/// Number of bytes copied at once.
const PIECE_BYTES: usize = 64 * 1024;

/// An output in another place. It grows in a file of this machine, which a restart cuts back to its last checkpoint, and is sent
/// when it is complete; so the place never has a part of it under its name, and every place can be restarted exactly.
///
/// A process that dies after it has sent the file and before the end of the step is stored has no file any more: a restart
/// fetches the bytes of its checkpoint back from the place, and compares them.
pub(crate) struct RemoteOutput {
    to: RemoteFile,
    open: Option<Growing>,
}

/// An output that was opened.
struct Growing {
    path: PathBuf,
    file: FileOutput,
    /// Hash of all appended bytes.
    hash: u64,
    committed_hash: u64,
    scope: StepScope,
    /// Keeps other outputs of this process away from the place.
    _claim: OpenPath,
}

/// A position of an output in another place.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct RemotePosition {
    file: FilePosition,
    /// Hash of all bytes before the position.
    hash: u64,
}

impl RemoteOutput {
    pub(crate) fn new(to: RemoteFile) -> Self {
        Self { to, open: None }
    }

    fn growing(&self, hash: u64, scope: &StepScope) -> Result<Growing, ItemError> {
        let partition = scope.partition().map_or("", |partition| partition.key.as_str());
        let (store, instance) = (scope.store_id(), scope.job().instance_id());
        // Several instances, steps and partitions may write to one name.
        let whole =
            format!("{store}\n{instance}\n{}\n{partition}\n{}", scope.step(), self.to.identity());
        let token = format!("{:016x}", stable_hash(whole.as_bytes()));
        let path = self.to.folder.join(FOLDER).join(format!("{token}-{}", self.to.name()));
        let claim = self.to.claim(PathUse::Output { token, made_by: scope.id().0 })?;
        Ok(Growing {
            file: FileOutput::new(&path),
            path,
            hash,
            committed_hash: hash,
            scope: scope.clone(),
            _claim: claim,
        })
    }

    fn opened(&mut self) -> Result<&mut Growing, ItemError> {
        self.open
            .as_mut()
            .ok_or_else(|| ItemError::fatal("cannot write to an output that is not open"))
    }

    /// Fetches the first bytes of the file that was sent already.
    fn fetch(
        &self,
        position: RemotePosition,
        (path, stop): (&Path, &StopToken),
        into: &mut File,
    ) -> Result<(), ItemError> {
        let length = position.file.length;
        let lost = |what: &str| {
            let (to, path) = (self.to.shown(), path.display());
            ItemError::new(
                ErrorKind::IO,
                format!("cannot continue `{to}` at byte {length}: `{path}` is missing, and {what}"),
            )
        };
        let found = self.to.find()?.ok_or_else(|| lost("nothing was sent"))?;
        if found.size < length {
            return Err(lost(&format!("what was sent has only {} bytes", found.size)));
        }
        let (mut bytes, mut piece) = (self.to.content_from(0)?.take(length), vec![0; PIECE_BYTES]);
        let mut hash = stable_hash(b"");
        loop {
            if stop.is_requested() {
                return Err(ItemError::stopped("a stop was requested while an output was fetched"));
            }
            let count = bytes.read(&mut piece)?;
            if count == 0 {
                break;
            }
            hash = stable_hash_after(hash, &piece[..count]);
            into.write_all(&piece[..count])?;
        }
        match bytes.limit() == 0 && hash == position.hash {
            true => Ok(into.sync_all()?),
            false => Err(lost("what was sent has other bytes")),
        }
    }

    fn send(&self, Growing { path, scope, .. }: &Growing) -> Result<(), ItemError> {
        let in_file = |error| {
            ItemError::wrap(ErrorKind::IO, format!("cannot read `{}`", path.display()), error)
        };
        let mut file = File::open(path).map_err(in_file)?;
        let length = file.metadata().map_err(in_file)?.len();
        self.to.put(scope, &mut file, length)?;
        tracing::info!(target: "batchwright::output", "sent {}", self.to.shown());
        Ok(())
    }
}

impl ByteSink for RemoteOutput {
    type Position = RemotePosition;

    fn open(
        &mut self,
        position: Option<RemotePosition>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        self.to.check_writable("write")?;
        let mut growing = self.growing(position.map_or(stable_hash(b""), |one| one.hash), scope)?;
        if let Some(position) = position {
            let from = (&*growing.path, scope.stop());
            let fetch = |file: &mut File| self.fetch(position, from, file);
            growing.file.restore(position.file, scope, fetch)?;
        }
        growing.file.open(position.map(|position| position.file), scope)?;
        self.open = Some(growing);
        Ok(())
    }

    fn length(&self) -> u64 {
        self.open.as_ref().map_or(0, |growing| growing.file.length())
    }

    fn begun(&self) -> Option<Arc<dyn ByteSource>> {
        self.open.as_ref().and_then(|growing| ByteSink::begun(&growing.file))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ItemError> {
        let growing = self.opened()?;
        growing.hash = stable_hash_after(growing.hash, bytes);
        growing.file.append(bytes)
    }

    fn position(&mut self) -> Result<RemotePosition, ItemError> {
        let growing = self.opened()?;
        Ok(RemotePosition { file: growing.file.position()?, hash: growing.hash })
    }

    fn committed(&mut self) {
        if let Some(growing) = &mut self.open {
            growing.committed_hash = growing.hash;
            growing.file.committed();
        }
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        let Some(growing) = &mut self.open else { return Ok(()) };
        growing.hash = growing.committed_hash;
        growing.file.rolled_back()
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        let Some(mut growing) = self.open.take() else { return Ok(()) };
        // The file on this machine is not one that others take.
        let of_file = if ending == Ending::Full { Ending::Complete } else { ending };
        growing.file.close(of_file)?;
        if !matches!(ending, Ending::Complete | Ending::Full) {
            return Ok(());
        }
        self.send(&growing)?;
        if ending == Ending::Full {
            growing.file.prove(&growing.scope)?;
        }
        fs::remove_file(&growing.path).map_err(|error| {
            let what = format!("cannot remove `{}`, which was sent", growing.path.display());
            ItemError::wrap(ErrorKind::IO, what, error)
        })
    }

    /// The file on this machine is removed once it is sent, which a proof beside it says.
    fn is_named(&self, position: &RemotePosition, scope: &StepScope) -> Result<bool, ItemError> {
        let growing = self.growing(position.hash, scope)?;
        Ok(growing.file.is_named(&position.file, scope)? && !growing.path.exists())
    }

    fn forget(&self, scope: &StepScope) -> Result<(), ItemError> {
        self.growing(0, scope)?.file.forget(scope)
    }
}
