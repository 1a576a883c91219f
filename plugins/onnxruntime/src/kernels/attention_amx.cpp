// Attention by tiles of bfloat16. A float32 is the sum of two of these, to about 2^-17, and three
// products of the parts stand for one: they lie beside each other along the dimension that is
// summed over.
//
// Rows of a tile of scores are keys, columns queries, so that maxima and sums run across registers,
// and pairs of rows are what the second product takes. A row of ones under the values makes the
// weights' sum: the same rounded weights divide that were multiplied.
#include <immintrin.h>

#include "attention.h"
#include "avx512.h"
#include "exp2_avx512.h"

namespace mpq {
namespace {

constexpr int64_t kSide = 16;         // rows of a tile, and its 32-bit columns
constexpr int64_t kTileBytes = 1024;  // 16 rows of 64
constexpr int64_t kRowBytes = 64;
constexpr int64_t kPairKeys = 32;   // keys that one product of weights and values takes
constexpr int64_t kChunkKeys = 64;  // whose scores and weights stay in the first-level cache
constexpr int64_t kColumns = 4;     // of sixteen queries, that read a chunk one after another
constexpr int64_t kTileValues = kSide * kSide;
constexpr int64_t kColumnScores = kChunkKeys * kSide;
constexpr int64_t kLowWeights = kChunkKeys / 2 * kRowBytes;
constexpr int64_t kColumnWeights = 2 * kLowWeights;
constexpr int64_t kAhead = 16;  // tokens
constexpr int kStride = static_cast<int>(kRowBytes);

int64_t padded(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

__mmask16 first_lanes(int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << count) - 1u);
}

struct Sizes {
  int64_t width, key_tiles, value_tiles, keys;

  Sizes(int64_t tokens, int64_t values)
      : width(values),
        key_tiles(padded(3 * values, 2 * kSide) / (2 * kSide)),
        value_tiles(padded(values + 1, kSide) / kSide),
        keys(padded(tokens, kPairKeys)) {}

  int64_t key_row() const { return key_tiles * kRowBytes; }
  int64_t pair_bytes() const { return value_tiles * 2 * kTileBytes; }
};

struct Memory {
  uint8_t *keys, *values, *queries, *rows, *weights, *end;
  float *scores, *sums, *largest, *spare;

  Memory(const Sizes& sizes, void* begin) {
    auto* next = static_cast<uint8_t*>(begin);
    const auto take = [&](int64_t bytes) {
      uint8_t* const taken = next;
      next += bytes;
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
    end = next;
  }
};

int64_t scratch_bytes(int64_t keys, int64_t width) {
  return Memory(Sizes(keys, width), nullptr).end - static_cast<uint8_t*>(nullptr);
}

// x = high + low + a rest of less than 2^-17 x. Lanes are 16-bit patterns, 0 where there is none.
struct Parts {
  __m256i high, low;

  explicit Parts(__m512 x) {
    high = (__m256i)_mm512_cvtneps_pbh(x);
    const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);
    low = (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(x, _mm512_castsi512_ps(wide)));
  }
};

// One token's values, times `scale`, as a row of tiles: three times its parts. Keys are (high, low,
// high), queries (high, high, low).
template <bool query>
void pack_row(const float* x, int64_t width, float scale, uint8_t* row, int64_t bytes) {
  auto* to = reinterpret_cast<uint16_t*>(row);
  for (int64_t d = 0; d < width; d += kSide) {
    const __mmask16 lanes = first_lanes(width - d);
    const Parts parts(_mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + d), _mm512_set1_ps(scale)));
    _mm256_mask_storeu_epi16(to + d, lanes, parts.high);
    _mm256_mask_storeu_epi16(to + width + d, lanes, query ? parts.high : parts.low);
    _mm256_mask_storeu_epi16(to + 2 * width + d, lanes, query ? parts.low : parts.high);
  }
  memset(to + 3 * width, 0, static_cast<size_t>(bytes - 6 * width));
}

// Tokens lie far apart, which the processor does not foresee.
template <int write>
void prefetch(const float* token, int64_t width) {
  for (int64_t d = 0; d < width; d += kSide) __builtin_prefetch(token + d, write, 3);
  __builtin_prefetch(token + width - 1, write, 3);
}

// Tiles whose rows are sixteen keys.
void pack_keys(const AttentionHead& head, const Sizes& sizes, uint8_t* rows, uint8_t* to) {
  for (int64_t first = 0; first < sizes.keys; first += kSide) {
    for (int64_t i = 0; i < kSide; ++i) {
      const int64_t key = first + i;
      const float* const x = head.key + key * head.stride;
      if (key + kAhead < head.keys) prefetch<0>(x + kAhead * head.stride, head.width);
      uint8_t* const row = rows + i * sizes.key_row();
      if (key < head.keys)
        pack_row<false>(x, head.width, 1.0f, row, sizes.key_row());
      else
        memset(row, 0, static_cast<size_t>(sizes.key_row()));
    }
    for (int64_t t = 0; t < sizes.key_tiles; ++t, to += kTileBytes)
      for (int64_t i = 0; i < kSide; ++i)
        _mm512_store_si512(to + i * kRowBytes,
                           _mm512_load_si512(rows + i * sizes.key_row() + t * kRowBytes));
  }
}

// For 32 keys and 16 of a token's values, two tiles: high and low parts, a value a row.
void pack_values(const AttentionHead& head, const Sizes& sizes, uint8_t* to) {
  alignas(64) uint32_t high[kSide * kSide], low[kSide * kSide];
  for (int64_t key = 0; key < sizes.keys; key += kPairKeys) {
    for (int64_t next = key + kPairKeys; next < key + 2 * kPairKeys && next < head.keys; ++next)
      prefetch<0>(head.value + next * head.stride, head.width);
    for (int64_t tile = 0; tile < sizes.value_tiles; ++tile, to += 2 * kTileBytes) {
      const int64_t first = tile * kSide;
      const __mmask16 lanes = first_lanes(head.width - first);
      // The row below the last of the values is 1.
      const __m512 rest =
          _mm512_maskz_mov_ps(static_cast<__mmask16>(lanes + 1u), _mm512_set1_ps(1));
      const auto parts_of = [&](int64_t token) {
        if (token >= head.keys) return Parts(_mm512_setzero_ps());
        return Parts(_mm512_mask_loadu_ps(rest, lanes, head.value + token * head.stride + first));
      };
      for (int64_t i = 0; i < kSide; ++i) {
        const Parts even = parts_of(key + 2 * i), odd = parts_of(key + 2 * i + 1);
        const auto pairs = [](__m256i a, __m256i b) {
          return _mm512_or_si512(_mm512_cvtepu16_epi32(a),
                                 _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
        };
        _mm512_store_si512(high + i * kSide, pairs(even.high, odd.high));
        _mm512_store_si512(low + i * kSide, pairs(even.low, odd.low));
      }
      avx512::transpose(high, kSide, kSide, kSide, to, kSide);
      avx512::transpose(low, kSide, kSide, kSide, to + kTileBytes, kSide);
    }
  }
}

// Tiles whose columns are up to sixteen queries, scaled so that scores are powers of two.
void pack_queries(const AttentionHead& head, int64_t first, int64_t count, const Sizes& sizes,
                  uint8_t* rows, uint8_t* to) {
  constexpr float kLog2E = 1.44269504088896341f;
  for (int64_t q = 0; q < kSide; ++q) {
    uint8_t* row = rows + q * sizes.key_row();
    if (q < count)
      pack_row<true>(head.query + (first + q) * head.stride, head.width, head.scale * kLog2E, row,
                     sizes.key_row());
    else
      memset(row, 0, static_cast<size_t>(sizes.key_row()));
  }
  avx512::transpose(rows, sizes.key_row() / 4, kSide, sizes.key_row() / 4, to, kSide);
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
      : head_(head), sizes_(head.keys, head.width), memory_(sizes_, scratch) {
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

void configure() {
  struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } static const configuration;
  _tile_loadconfig(&configuration);
}

void attend(const AttentionHead& head, void* scratch) {
  const avx512::NoDenormals flushed;
  const Head packed(head, scratch);
  configure();
  for (int64_t first = 0; first < head.queries; first += kColumns * kSide) packed.attend(first);
  _tile_release();
}

}  // namespace

const AttentionKernel kAmxAttention = {scratch_bytes, attend};

}  // namespace mpq
