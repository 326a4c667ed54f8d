#include "plan/halo.h"

/* What dist_axis_exchange takes at once. */
static const size_t PIECE_BYTES = (size_t)1 << 30;

static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

int64_t halo_cut(int64_t part, void *rows, size_t row_bytes, int64_t n_rows, struct dist_piece *pieces) {
  int64_t most = (int64_t)(PIECE_BYTES / row_bytes), n = 0;
  for (int64_t begin = 0; begin < n_rows; begin += most, n++) {
    int64_t count = n_rows - begin < most ? n_rows - begin : most;
    if (!pieces) continue;
    pieces[n] = (struct dist_piece){
        .peer = (int)part, .data = (char *)rows + row_bytes * (size_t)begin, .bytes = row_bytes * (size_t)count};
  }
  return n;
}

int halo_find(const struct halo *halo, struct range rows) {
  int r = 0;
  while (r < HALO_MAX_RANGES && (halo->ranges[r].begin > rows.begin || halo->ranges[r].end < rows.end)) r++;
  FAVOR_ASSERT(r < HALO_MAX_RANGES);
  return r;
}

/* Fills halo->sends and halo->receives, or counts where there is no buffer yet. */
static void find_pieces(const struct favor_plan *plan, struct halo *halo) {
  const int64_t own_part = halo_own_part(plan);
  const struct range own = halo->kind->own(plan, own_part);
  const bool is_counting = !halo->rows;
  halo->n_sends = halo->n_receives = 0;
  for (int64_t part = 0; part < plan->grid.tokens; part++) {
    if (part == own_part) continue;
    struct range wished[HALO_MAX_RANGES] = {0}, other = halo->kind->own(plan, part);
    halo->kind->wish(plan, part, wished);
    for (int r = 0; r < HALO_MAX_RANGES; r++) {
      struct range given = range_meet(wished[r], own), taken = range_meet(halo->ranges[r], other);
      if (range_count(given) > 0) {
        void *rows = is_counting ? NULL : halo_row(halo, halo_find(halo, given), given.begin);
        halo->n_sends +=
            halo_cut(part, rows, halo->row_bytes, range_count(given), is_counting ? NULL : halo->sends + halo->n_sends);
      }
      if (range_count(taken) > 0) {
        void *rows = is_counting ? NULL : halo_row(halo, r, taken.begin);
        halo->n_receives += halo_cut(part, rows, halo->row_bytes, range_count(taken),
                                     is_counting ? NULL : halo->receives + halo->n_receives);
      }
    }
  }
}

struct halo halo_count(const struct favor_plan *plan, const struct halo_kind *kind, size_t row_bytes) {
  struct halo halo = {.kind = kind, .row_bytes = row_bytes};
  if (range_count(plan->units) == 0) return halo;
  kind->wish(plan, halo_own_part(plan), halo.ranges);
  for (int r = 0; r < HALO_MAX_RANGES; r++) {
    halo.first_row[r] = halo.n_rows;
    halo.n_rows += range_count(halo.ranges[r]);
  }
  find_pieces(plan, &halo);
  return halo;
}

static size_t buffer_bytes(const struct halo *halo) { return round_up(halo->row_bytes * (size_t)halo->n_rows); }

size_t halo_bytes(const struct halo *halo) {
  return buffer_bytes(halo) + round_up((size_t)(halo->n_sends + halo->n_receives) * sizeof(struct dist_piece));
}

void halo_place(const struct favor_plan *plan, void *memory, struct halo *halo) {
  halo->rows = memory;
  halo->sends = (struct dist_piece *)(halo->rows + buffer_bytes(halo));
  halo->receives = halo->sends + halo->n_sends;
  if (halo->n_rows > 0) find_pieces(plan, halo);
}

void halo_exchange(const struct favor_plan *plan, const struct halo *halo) {
  dist_axis_exchange(plan->axis, halo->sends, halo->n_sends, halo->receives, halo->n_receives);
}

void halo_shared_segments(const struct favor_plan *plan, int64_t part, struct range segments[2]) {
  struct range shard = halo_shard(plan, part);
  segments[0] = segments[1] = (struct range){0, 0};
  if (range_count(shard) == 0) return;
  struct range first = tokens_segment(&plan->tokens, shard.begin), last = tokens_segment(&plan->tokens, shard.end - 1);
  if (first.begin < shard.begin || first.end > shard.end) segments[0] = first;
  if (last.begin != first.begin && last.end > shard.end) segments[1] = last;
}
