-- What one customer may hold of what all share; generation/shares.py explains it, and does the same.

local SHARE_FACTOR = 4

local function has_share(size, held, taken, bound)
  local free = bound - taken - size
  return free >= 0 and (held == 0 or held + size <= SHARE_FACTOR * free)
end

local function has_place(held, taken, bound)
  return held == 0 or has_share(1, held, taken, bound)
end
