//! Waiting for a server: on this thread, for so long and no longer, over a connection that is kept from one question
//! to the next.

use super::SinkError;
use std::{error::Error, time::Duration};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

/// A patience, and a runtime to wait with, which is made when it is needed.
pub(super) struct Wait {
    runtime: Option<Runtime>,
    patience: Duration,
}

impl Wait {
    pub fn new(patience: Duration) -> Self {
        Self {
            runtime: None,
            patience,
        }
    }

    /// What `work` comes to. `late`: what is said, with the time, when that takes too long.
    ///
    /// # Errors
    /// Its own; [`SinkError::Unavailable`] when it is late or nothing can be waited with.
    pub fn wait<T>(
        &mut self,
        late: &str,
        work: impl Future<Output = Result<T, SinkError>>,
    ) -> Result<T, SinkError> {
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| SinkError::Unavailable(format!("no runtime: {error}")))?,
        };
        let ended = runtime.block_on(async { timeout(self.patience, work).await });
        self.runtime = Some(runtime);
        ended.unwrap_or_else(|_| {
            let ms = self.patience.as_millis();
            Err(SinkError::Unavailable(format!("{late} within {ms} ms")))
        })
    }
}

/// A connection, made anew after whatever failed.
pub(super) struct Connection<C> {
    open: Option<C>,
    wait: Wait,
}

impl<C> Connection<C> {
    /// Nothing is connected yet.
    pub fn new(patience: Duration) -> Self {
        Self {
            open: None,
            wait: Wait::new(patience),
        }
    }

    /// Does `work` over what is open and fit for it, else over what `open` comes to. `late`: as of [`Wait::wait`], for
    /// both together.
    ///
    /// # Errors
    /// Those of [`Wait::wait`].
    pub fn ask<T>(
        &mut self,
        late: &str,
        is_fit: impl FnOnce(&C) -> bool,
        open: impl Future<Output = Result<C, SinkError>>,
        work: impl AsyncFnOnce(&mut C) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let known = self.open.take().filter(is_fit);
        let (connection, done) = self.wait.wait(late, async {
            let mut connection = match known {
                Some(known) => known,
                None => open.await?,
            };
            let done = work(&mut connection).await;
            Ok((connection, done))
        })?;
        // After anything unexpected the state of the connection is a guess.
        if !matches!(done, Err(SinkError::Unavailable(_))) {
            self.open = Some(connection);
        }
        done
    }
}

/// An error with what is behind it: those of clients' crates say little by themselves.
pub(super) fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

/// Nobody answered as they should; it may be over at the next try.
pub(super) fn away(error: &dyn Error) -> SinkError {
    SinkError::Unavailable(whole(error))
}
