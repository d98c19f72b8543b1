// Rows whose bits do not depend on the rows that they are computed with.
#pragma once

namespace thaw {

// While one lives on this thread, a row gets the same bits in any batch on the CPU: projections
// keep to one matrix product, which sums a row in one order: always (ours in bf16), as soon as
// there are two rows (oneDNN's in fp32), or given as many of them each time (oneDNN's in bf16).
// Without it few rows go through a kernel that sums in another order.
// Everything between projections works row by row or sequence by sequence in any case; recurrent
// layers do not. For passes without autograd: a backward pass runs on threads of its own.
class RowsAlike {
 public:
  RowsAlike() : before_(on_) { on_ = true; }
  ~RowsAlike() { on_ = before_; }
  RowsAlike(const RowsAlike&) = delete;
  RowsAlike& operator=(const RowsAlike&) = delete;

  static bool on() { return on_; }

 private:
  inline static thread_local bool on_ = false;
  const bool before_;
};

}  // namespace thaw
