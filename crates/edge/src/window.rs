//! What grew lately: two figures that only grow, looked at once a second, so that those who count pay nothing.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// Seconds that are looked back.
const SECONDS: usize = 10;

/// Looks of the last seconds, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Window {
    looks: Mutex<VecDeque<[u64; 2]>>,
}

impl Window {
    /// The figures are these now. Called once a second.
    pub(crate) fn note(&self, figures: [u64; 2]) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() == SECONDS {
            looks.pop_front();
        }
        looks.push_back(figures);
    }

    /// By how much they grew in the last ten seconds, or since they began if that is later.
    pub(crate) fn grown(&self, figures: [u64; 2]) -> [u64; 2] {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let [first, second] =
            if looks.len() < SECONDS { [0, 0] } else { looks.front().copied().unwrap_or_default() };
        [figures[0].saturating_sub(first), figures[1].saturating_sub(second)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_before_the_window_doesnt_count() {
        let window = Window::default();
        assert_eq!(window.grown([7, 2]), [7, 2]);
        for second in 1..=30 {
            window.note([second * 10, second]);
        }
        assert_eq!(window.grown([305, 30]), [95, 9]);
    }
}
