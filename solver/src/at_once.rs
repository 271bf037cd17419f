//! Many futures of which most are done when they are first asked.

use std::task::Poll;

use futures_util::future::{BoxFuture, try_join_all};
use futures_util::poll;

/// The results of all, in their order, or the first error. As `try_join_all`, but each has its first turn before the
/// next is made: those that are done by then take no room beside the others, and the futures here are kilobytes.
pub(crate) async fn try_all<'f, T, E>(
    futures: impl IntoIterator<Item = BoxFuture<'f, Result<T, E>>>,
) -> Result<Vec<T>, E> {
    let mut results = Vec::new();
    let mut waiting = Vec::new();
    for mut future in futures {
        let place = results.len();
        results.push(match poll!(future.as_mut()) {
            Poll::Ready(result) => Some(result?),
            Poll::Pending => {
                waiting.push(async move { future.await.map(|result| (place, result)) });
                None
            }
        });
    }
    for (place, result) in try_join_all(waiting).await? {
        results[place] = Some(result);
    }
    Ok(results.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

    use super::try_all;

    #[tokio::test]
    async fn results_are_in_order_and_those_that_wait_do_so_at_the_same_time() {
        let (sender, receiver) = tokio::sync::watch::channel(0);
        let begun = AtomicUsize::new(0);
        let futures = (0..6).map(|number| {
            let (sender, begun) = (&sender, &begun);
            let mut receiver = receiver.clone();
            let future = async move {
                begun.fetch_add(1, Ordering::Relaxed);
                match number {
                    1 | 4 => assert!(receiver.wait_for(|seen| *seen == 1).await.is_ok()),
                    5 => {
                        sender.send_replace(1);
                    }
                    _ => {}
                }
                Ok::<_, ()>(number)
            };
            future.boxed()
        });
        assert_eq!(try_all(futures).await, Ok(vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(begun.into_inner(), 6);
    }

    #[tokio::test]
    async fn an_error_ends_it() {
        let futures = (0..3).map(|number| match number {
            0 => std::future::pending().boxed(),
            1 => std::future::ready(Ok(1)).boxed(),
            number => std::future::ready(Err(number)).boxed(),
        });
        assert_eq!(try_all(futures).await, Err(2));
    }
}
