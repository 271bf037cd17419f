//! How many operations execute at once: a fixed number of places, or as many as there are cores, and more for as long
//! as cores stand idle. A step that sleeps or waits for a network takes a place but no core; without the second kind
//! eight such steps would take four times as long on two cores as they must.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// How often who waits for a place looks whether cores are idle.
const LOOK: Duration = Duration::from_millis(30);

/// Places beyond the cores, for each core: what sleeps still takes memory and processes.
const EXTRA_PER_PLACE: usize = 8;

/// Returns whether at least one core was idle since it was last asked; `false` when too little time has passed to say.
pub type Idle = Arc<dyn Fn() -> bool + Send + Sync>;

/// A limit on what executes at once.
#[derive(Clone)]
pub enum Jobs {
    /// Exactly so many; 0 counts as 1.
    Fixed(usize),
    /// So many, and more while cores are idle.
    Adaptive { cores: usize, idle: Idle },
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(places) => write!(f, "Fixed({places})"),
            Self::Adaptive { cores, .. } => write!(f, "Adaptive({cores})"),
        }
    }
}

pub(crate) struct Places {
    regular: Semaphore,
    idle: Option<Idle>,
    looking: Once,
    extra: AtomicUsize,
    extra_limit: usize,
}

/// A place that is taken; free again on drop.
pub(crate) enum Place<'a> {
    Regular { _permit: SemaphorePermit<'a> },
    Extra { taken: &'a AtomicUsize },
}

impl<'a> Place<'a> {
    fn regular(permit: SemaphorePermit<'a>) -> Self {
        Self::Regular { _permit: permit }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Self::Extra { taken } = self {
            taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Places {
    pub(crate) fn new(jobs: &Jobs) -> Self {
        let (places, idle) = match jobs {
            Jobs::Fixed(places) => (*places, None),
            Jobs::Adaptive { cores, idle } => (*cores, Some(Arc::clone(idle))),
        };
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            regular: Semaphore::new(places),
            idle,
            looking: Once::new(),
            extra: AtomicUsize::new(0),
            extra_limit: places.saturating_mul(EXTRA_PER_PLACE),
        }
    }

    /// Waits for a place. `None` where no place will ever be free again.
    pub(crate) async fn take(&self) -> Option<Place<'_>> {
        let regular = self.regular.acquire();
        let Some(idle) = &self.idle else {
            return regular.await.ok().map(Place::regular);
        };
        tokio::pin!(regular);
        // From the first step on it is looked at whether cores are idle.
        self.looking.call_once(|| {
            idle();
        });
        loop {
            tokio::select! {
                biased;
                permit = &mut regular => return permit.ok().map(Place::regular),
                () = tokio::time::sleep(LOOK) => {
                    if idle() && let Some(place) = self.beyond() {
                        return Some(place);
                    }
                }
            }
        }
    }

    fn beyond(&self) -> Option<Place<'_>> {
        let taken = |count: usize| (count < self.extra_limit).then_some(count + 1);
        self.extra
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .ok()
            .map(|_| Place::Extra { taken: &self.extra })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    }

    async fn taken_at_once(places: &Places) -> usize {
        let mut held = Vec::new();
        while let Ok(place) = tokio::time::timeout(4 * LOOK, places.take()).await {
            held.push(place);
        }
        held.len()
    }

    #[test]
    fn a_fixed_limit_is_never_passed() {
        let places = Places::new(&Jobs::Fixed(3));
        assert_eq!(runtime().block_on(taken_at_once(&places)), 3);
    }

    #[test]
    fn busy_cores_get_no_more_than_their_number() {
        let idle: Idle = Arc::new(|| false);
        let places = Places::new(&Jobs::Adaptive { cores: 2, idle });
        assert_eq!(runtime().block_on(taken_at_once(&places)), 2);
    }

    #[test]
    fn idle_cores_get_more_up_to_a_bound_and_give_it_back() {
        let idle: Idle = Arc::new(|| true);
        let places = Places::new(&Jobs::Adaptive { cores: 2, idle });
        for _ in 0..2 {
            assert_eq!(
                runtime().block_on(taken_at_once(&places)),
                2 + 2 * EXTRA_PER_PLACE
            );
        }
        assert_eq!(places.extra.load(Ordering::Relaxed), 0);
    }
}
