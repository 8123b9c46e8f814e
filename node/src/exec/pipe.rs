//! The reading ends of a process's two output streams.
//!
//! Most processes are over in a few milliseconds and print next to nothing. Their output is taken when they have ended, with
//! plain reads that do not wait; only what lives longer is registered with the runtime. That saves a short process a third
//! of the runtime's work: the registration of two pipes, and being woken by their end just before its own.

pub(super) use platform::{Output, pair};

/// What one look at a pipe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// All writers are gone and everything was read.
    End,
    /// Someone may still write.
    Open,
}

#[cfg(unix)]
mod platform {
    use std::io::{ErrorKind, PipeReader, Read, Result};
    use std::os::fd::OwnedFd;
    use std::process::Stdio;

    use tokio::net::unix::pipe::Receiver;

    use super::Look;

    /// A pipe holds 64 KiB on Linux; a look takes no more than a few times that, so that an endless writer cannot hold it.
    const READS_MAX: usize = 32;
    const READ_BYTES: usize = 8 * 1024;

    #[derive(Debug)]
    pub(in crate::exec) struct Output(PipeReader);

    /// A pipe: our end, which never waits, and the process's end. Neither is inherited by other processes.
    pub(in crate::exec) fn pair() -> Result<(Output, Stdio)> {
        let (reader, writer) = std::io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        Ok((Output(reader), Stdio::from(writer)))
    }

    impl Output {
        /// Hands over what is there without waiting for more.
        pub(in crate::exec) fn look(&mut self, mut take: impl FnMut(&[u8])) -> Look {
            let mut buffer = [0; READ_BYTES];
            for _ in 0..READS_MAX {
                match self.0.read(&mut buffer) {
                    Ok(0) => return Look::End,
                    Ok(count) => take(buffer.get(..count).unwrap_or_default()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Look::Open,
                    // Nothing more can be had from it.
                    Err(_) => return Look::End,
                }
            }
            Look::Open
        }

        /// The same pipe for waiting reads. Must be called within a runtime.
        pub(in crate::exec) fn into_async(self) -> Result<Receiver> {
            Receiver::from_owned_fd(OwnedFd::from(self.0))
        }
    }
}

/// Windows has no reads of a pipe that do not wait, so the runtime's own pipes are used. Not tried on Windows.
#[cfg(not(unix))]
mod platform {
    use std::io::Result;
    use std::pin::Pin;
    use std::process::Stdio;

    use tokio::io::AsyncRead;

    use super::Look;

    pub(in crate::exec) struct Output(Option<Pin<Box<dyn AsyncRead + Send + Sync>>>);

    pub(in crate::exec) fn pair() -> Result<(Output, Stdio)> {
        Ok((Output(None), Stdio::piped()))
    }

    impl Output {
        /// Connects this end with what the started process has to offer.
        pub(in crate::exec) fn attach(&mut self, pipe: Option<impl AsyncRead + Send + Sync + 'static>) {
            self.0 = pipe.map(|pipe| Box::pin(pipe) as _);
        }

        pub(in crate::exec) fn look(&mut self, _: impl FnMut(&[u8])) -> Look {
            if self.0.is_some() { Look::Open } else { Look::End }
        }

        pub(in crate::exec) fn into_async(self) -> Result<Pin<Box<dyn AsyncRead + Send + Sync>>> {
            self.0.ok_or_else(|| std::io::Error::other("the process has no such pipe"))
        }
    }
}
