// Attention by tiles of bfloat16.
//
// Rows of a tile of scores are keys, columns queries, so that maxima and sums run across registers,
// and pairs of rows are what the second product takes. A row of ones under the values makes the
// weights' sum: the same rounded weights divide that were multiplied.
#include "attention_amx_packing.h"
#include "exp2_avx512.h"

namespace mpq {
namespace {

constexpr int64_t kChunkKeys = 64;  // whose scores and weights stay in the first-level cache
constexpr int64_t kColumns = 4;     // of sixteen queries, that read a chunk one after another
constexpr int64_t kTileValues = kSide * kSide;
constexpr int64_t kColumnScores = kChunkKeys * kSide;
constexpr int64_t kLowWeights = kChunkKeys / 2 * kRowBytes;
constexpr int64_t kColumnWeights = 2 * kLowWeights;
constexpr int kStride = static_cast<int>(kRowBytes);

struct Memory {
  uint8_t *keys, *values, *queries, *rows, *weights;
  float *scores, *sums, *largest, *spare;
  uintptr_t end;

  Memory(const Sizes& sizes, uintptr_t begin) : end(begin) {
    const auto take = [this](int64_t bytes) {
      auto* const taken = reinterpret_cast<uint8_t*>(end);
      end += static_cast<uintptr_t>(bytes);
      return taken;
    };
    keys = take(sizes.keys * sizes.key_row());
    values = take(sizes.keys / kPairKeys * sizes.pair_bytes());
    queries = take(kColumns * sizes.key_tiles * kTileBytes);
    rows = take(kSide * sizes.key_row());
    weights = take(2 * kColumnWeights);
    scores = reinterpret_cast<float*>(take(2 * kChunkKeys * kRowBytes));
    sums = reinterpret_cast<float*>(take(kColumns * sizes.value_tiles * kTileBytes));
    largest = reinterpret_cast<float*>(take(kColumns * kRowBytes));
    spare = reinterpret_cast<float*>(take(2 * kTileBytes));
  }
};

int64_t scratch_bytes(int64_t keys, int64_t width) {
  return static_cast<int64_t>(Memory(Sizes(keys, width), 0).end);
}

// Scores of two tiles of keys at a time, for each column of queries. What is read once is used for
// both. A tile of sums is stored where it is needed again: at once, the store would wait for the
// products, and all that follows for the store.
template <int columns>
void multiply_keys(const uint8_t* keys, const uint8_t* queries, const Sizes& sizes, int64_t count,
                   float* scores) {
  const int64_t column = sizes.key_tiles * kTileBytes;  // also of a row of tiles of keys
  float* done = scores;                                 // what is stored first is overwritten
  for (int64_t key = 0; key < count; key += kPairKeys) {
    const uint8_t *upper = keys + key / kSide * column, *lower = upper + column;
    for (int64_t t = 0; t < sizes.key_tiles; ++t) {
      _tile_loadd(4, upper + t * kTileBytes, kStride);
      _tile_loadd(6, queries + t * kTileBytes, kStride);
      if (t == 0) {
        _tile_stored(0, done, kStride);
        _tile_zero(0);
      }
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, lower + t * kTileBytes, kStride);
      if (t == 0) {
        _tile_stored(1, done + kTileValues, kStride);
        _tile_zero(1);
      }
      _tile_dpbf16ps(1, 5, 6);
      if (columns == 1) continue;
      _tile_loadd(7, queries + column + t * kTileBytes, kStride);
      if (t == 0) {
        _tile_stored(2, done + kColumnScores, kStride);
        _tile_zero(2);
      }
      _tile_dpbf16ps(2, 4, 7);
      if (t == 0) {
        _tile_stored(3, done + kColumnScores + kTileValues, kStride);
        _tile_zero(3);
      }
      _tile_dpbf16ps(3, 5, 7);
    }
    done = scores + key * kSide;
  }
  _tile_stored(0, done, kStride);
  _tile_stored(1, done + kTileValues, kStride);
  if (columns == 1) return;
  _tile_stored(2, done + kColumnScores, kStride);
  _tile_stored(3, done + kColumnScores + kTileValues, kStride);
}

__m512 largest_of(const float* scores, int64_t keys, __m512 before) {
  __m512 chains[4] = {before, before, before, before};
  int64_t key = 0;
  for (; key + 4 <= keys; key += 4)
    for (int i = 0; i < 4; ++i)
      chains[i] = _mm512_max_ps(chains[i], _mm512_loadu_ps(scores + (key + i) * kSide));
  for (; key < keys; ++key)
    chains[0] = _mm512_max_ps(chains[0], _mm512_loadu_ps(scores + key * kSide));
  return _mm512_max_ps(_mm512_max_ps(chains[0], chains[1]), _mm512_max_ps(chains[2], chains[3]));
}

// Weights of pairs of keys: rows of a tile for every 32 keys, of high and, kLowWeights further, of
// low parts. The latter are truncated.
void weigh(const float* scores, __m512 subtracted, int64_t pairs, uint8_t* to) {
  const __m512i half = _mm512_set1_epi32(0x8000);
  const __m512i high_half = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u));
  constexpr __mmask32 kOdd = 0xaaaaaaaa;
  const auto pair = [](__m512i even, __m512i odd) {
    return _mm512_mask_blend_epi16(kOdd, _mm512_srli_epi32(even, 16), odd);
  };
  const auto high_of = [&](__m512 weight) {
    return _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(weight), half), high_half);
  };
#pragma GCC unroll 4
  for (; pairs > 0; --pairs, scores += 2 * kSide, to += kRowBytes) {
    const __m512 even = avx512::exp2(_mm512_sub_ps(_mm512_load_ps(scores), subtracted));
    const __m512 odd = avx512::exp2(_mm512_sub_ps(_mm512_load_ps(scores + kSide), subtracted));
    const __m512i even_high = high_of(even), odd_high = high_of(odd);
    const __m512 even_low = _mm512_sub_ps(even, _mm512_castsi512_ps(even_high));
    const __m512 odd_low = _mm512_sub_ps(odd, _mm512_castsi512_ps(odd_high));
    _mm512_store_si512(to, pair(even_high, odd_high));
    _mm512_store_si512(to + kLowWeights,
                       pair(_mm512_castps_si512(even_low), _mm512_castps_si512(odd_low)));
  }
}

// Sums of two tiles of values, or of one, for two columns of queries, or one.
struct Sums {
  float *first, *second;
};

template <int columns, int tiles>
void store_sums(const Sums& sums) {
  _tile_stored(0, sums.first, kStride);
  if (tiles > 1) _tile_stored(1, sums.first + kTileValues, kStride);
  if (columns > 1) _tile_stored(2, sums.second, kStride);
  if (columns > 1 && tiles > 1) _tile_stored(3, sums.second + kTileValues, kStride);
}

// Begins sums with what is in memory, and adds the products of weights with values, which are read
// once for both columns. The sums stay in registers; those that were there, of two tiles, are
// stored to `done` one by one, see multiply_keys.
template <int columns, int tiles>
void add_values(const uint8_t* values, const uint8_t* weights, const Sizes& sizes, int64_t keys,
                const Sums& sums, const Sums& done) {
  for (int64_t key = 0; key < keys; key += kPairKeys) {
    const uint8_t *high = weights, *low = weights + kLowWeights;
    _tile_loadd(4, values, kStride);
    _tile_loadd(6, high, kStride);
    if (key == 0) {
      _tile_stored(0, done.first, kStride);
      _tile_loadd(0, sums.first, kStride);
    }
    _tile_dpbf16ps(0, 4, 6);
    if (tiles > 1) _tile_loadd(5, values + 2 * kTileBytes, kStride);
    if (key == 0) {
      _tile_stored(1, done.first + kTileValues, kStride);
      if (tiles > 1) _tile_loadd(1, sums.first + kTileValues, kStride);
    }
    if (tiles > 1) _tile_dpbf16ps(1, 5, 6);
    _tile_loadd(7, low, kStride);
    _tile_dpbf16ps(0, 4, 7);
    if (tiles > 1) _tile_dpbf16ps(1, 5, 7);
    if (columns > 1) {
      _tile_loadd(7, low + kColumnWeights, kStride);
      if (key == 0) {
        _tile_stored(2, done.second, kStride);
        _tile_loadd(2, sums.second, kStride);
      }
      _tile_dpbf16ps(2, 4, 7);
      if (key == 0) {
        _tile_stored(3, done.second + kTileValues, kStride);
        if (tiles > 1) _tile_loadd(3, sums.second + kTileValues, kStride);
      }
      if (tiles > 1) _tile_dpbf16ps(3, 5, 7);
      _tile_loadd(7, high + kColumnWeights, kStride);
      _tile_dpbf16ps(2, 4, 7);
      if (tiles > 1) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_loadd(4, values + kTileBytes, kStride);
    _tile_dpbf16ps(0, 4, 6);
    if (columns > 1) _tile_dpbf16ps(2, 4, 7);
    if (tiles > 1) {
      _tile_loadd(5, values + 3 * kTileBytes, kStride);
      _tile_dpbf16ps(1, 5, 6);
      if (columns > 1) _tile_dpbf16ps(3, 5, 7);
    }
    values += sizes.pair_bytes();
    weights += kTileBytes;
  }
}

// All tiles of values.
template <int columns>
void add_all_values(const uint8_t* values, const uint8_t* weights, const Sizes& sizes, int64_t keys,
                    Sums sums, float* spare) {
  Sums done{spare, spare};
  int64_t left = sizes.value_tiles;
  for (; left >= 2; left -= 2) {
    add_values<columns, 2>(values, weights, sizes, keys, sums, done);
    done = sums;
    sums = {sums.first + 2 * kTileValues, sums.second + 2 * kTileValues};
    values += 4 * kTileBytes;
  }
  if (left == 0) return store_sums<columns, 2>(done);
  add_values<columns, 1>(values, weights, sizes, keys, sums, done);
  store_sums<columns, 1>(sums);
}

class Head {
 public:
  Head(const AttentionHead& head, void* scratch)
      : head_(head),
        sizes_(head.keys, head.width),
        memory_(sizes_, reinterpret_cast<uintptr_t>(scratch)) {
    pack_keys(head, sizes_, memory_.rows, memory_.keys);
    pack_values(head, sizes_, memory_.values);
  }

  // Up to kColumns columns of sixteen queries.
  void attend(int64_t first) const {
    const int64_t left = head_.queries - first;
    const int64_t columns = left < kColumns * kSide ? padded(left, kSide) / kSide : kColumns;
    for (int64_t column = 0; column < columns; ++column) begin(column, first + column * kSide);
    // Where results go and the next queries are, a few at a time.
    const int64_t steps = padded(sizes_.keys, kChunkKeys) / kChunkKeys * (padded(columns, 2) / 2);
    const int64_t per_step = padded(columns * kSide, steps) / steps;
    int64_t token = first;
    const auto look_ahead = [&] {
      for (const int64_t end = token + per_step; token < end && token < head_.queries; ++token) {
        prefetch<1>(head_.y + token * head_.stride, head_.width);
        if (token + kColumns * kSide < head_.queries)
          prefetch<0>(head_.query + (token + kColumns * kSide) * head_.stride, head_.width);
      }
    };
    for (int64_t key = 0; key < sizes_.keys; key += kChunkKeys) {
      int64_t column = 0;
      for (; column + 2 <= columns; column += 2) {
        look_ahead();
        add_keys<2>(column, key);
      }
      if (column < columns) {
        look_ahead();
        add_keys<1>(column, key);
      }
    }
    for (int64_t column = 0; column < columns; ++column) store(column, first + column * kSide);
  }

 private:
  static constexpr float kLowest = -3e38f;  // finite: nothing is subtracted from itself infinite
  // How much larger a score may be than the one that is subtracted.
  static constexpr float kSlack = 8.0f;

  uint8_t* queries(int64_t column) const {
    return memory_.queries + column * sizes_.key_tiles * kTileBytes;
  }
  float* sums(int64_t column) const {
    return memory_.sums + column * sizes_.value_tiles * kTileValues;
  }
  float* largest(int64_t column) const { return memory_.largest + column * kSide; }
  int64_t queries_of(int64_t first) const {
    return head_.queries - first < kSide ? head_.queries - first : kSide;
  }

  void begin(int64_t column, int64_t first) const {
    pack_queries(head_, first, queries_of(first), sizes_, memory_.rows, queries(column));
    memset(sums(column), 0, static_cast<size_t>(sizes_.value_tiles * kTileBytes));
    _mm512_storeu_ps(largest(column), _mm512_set1_ps(kLowest));
  }

  template <int columns>
  void add_keys(int64_t column, int64_t key) const {
    const int64_t rest = sizes_.keys - key, count = rest < kChunkKeys ? rest : kChunkKeys;
    const int64_t there = head_.keys - key < count ? head_.keys - key : count;
    multiply_keys<columns>(memory_.keys + key * sizes_.key_row(), queries(column), sizes_, count,
                           memory_.scores);
    for (int64_t i = 0; i < columns; ++i) {
      float* const scores = memory_.scores + i * kColumnScores;
      for (int64_t k = there; k < count; ++k)
        _mm512_store_ps(scores + k * kSide, _mm512_set1_ps(kLowest));
      weigh(scores, raise(column + i, scores, there, key == 0), count / 2,
            memory_.weights + i * kColumnWeights);
    }
    add_all_values<columns>(
        memory_.values + key / kPairKeys * sizes_.pair_bytes(), memory_.weights, sizes_, count,
        {sums(column), sums(column) + sizes_.value_tiles * kTileValues}, memory_.spare);
  }

  // What is subtracted from a column's scores from here on.
  __m512 raise(int64_t column, const float* scores, int64_t count, bool first) const {
    const __m512 before = _mm512_load_ps(largest(column));
    const __m512 most = largest_of(scores, count, before);
    const __m512 slack = _mm512_add_ps(before, _mm512_set1_ps(kSlack));
    if (_mm512_cmp_ps_mask(most, slack, _CMP_GT_OQ) == 0) return before;
    _mm512_store_ps(largest(column), most);
    if (!first) {
      const __m512 factor = avx512::exp2(_mm512_sub_ps(before, most));
      float* to = sums(column);
      for (int64_t i = 0; i < sizes_.value_tiles * kSide; ++i, to += kSide)
        _mm512_store_ps(to, _mm512_mul_ps(_mm512_load_ps(to), factor));
    }
    return most;
  }

  void store(int64_t column, int64_t first) const {
    float* const from = sums(column);
    const __m512 total = _mm512_load_ps(from + sizes_.width * kSide);
    const __m512 divisor = _mm512_div_ps(_mm512_set1_ps(1.0f), total);
    for (int64_t d = 0; d < sizes_.width; ++d)
      _mm512_store_ps(from + d * kSide, _mm512_mul_ps(_mm512_load_ps(from + d * kSide), divisor));
    avx512::transpose(from, kSide, sizes_.width, queries_of(first), head_.y + first * head_.stride,
                      head_.stride);
  }

  const AttentionHead& head_;
  const Sizes sizes_;
  const Memory memory_;
};

void attend(const AttentionHead& head, void* scratch) {
  const avx512::NoDenormals flushed;
  const Head packed(head, scratch);
  configure_tiles();
  for (int64_t first = 0; first < head.queries; first += kColumns * kSide) packed.attend(first);
  _tile_release();
}

}  // namespace

const AttentionKernels kAmxAttention = {scratch_bytes, attend};

}  // namespace mpq
