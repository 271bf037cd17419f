//! Where synchronous work runs: on a thread that may block, or at once.

/// Runs synchronous work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down drops blocking work; then nobody polls this any more.
            Err(_) => std::future::pending().await,
        },
    }
}

/// As [`blocking`], for what has nothing beside it: on this thread, where the runtime has others for its own affairs.
/// Waking another one, and being woken by it, takes longer than to find everything done before.
pub(crate) async fn waited_for<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => blocking(work).await,
    }
}

/// As [`blocking`], for what takes a moment: where the runtime has one thread, at once and on that.
pub(crate) async fn brief<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::CurrentThread => work(),
        _ => blocking(work).await,
    }
}
