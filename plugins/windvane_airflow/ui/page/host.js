// The libraries are Airflow's own, so that there is one React, one router and one history on the page.

export const {
  createElement: h,
  Fragment,
  lazy,
  memo,
  startTransition,
  Suspense,
  useCallback,
  useEffect,
  useId,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
} = globalThis.React;

export const { Link, useLocation, useNavigate, useSearchParams } = globalThis.ReactRouterDOM;
